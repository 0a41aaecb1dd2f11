"""Views that write and call a task; ROOT_URLCONF = "jobs.views"."""

from django.http import HttpResponse
from django.urls import path

from .durable import effect, work


def good(request):
    effect("good")
    work.delay("good")
    return HttpResponse()


def bad(request):
    effect("bad")
    work.delay("bad")
    raise RuntimeError("after the call")


urlpatterns = [path("good/", good), path("bad/", bad)]
