import logging
import time

from django.http import HttpResponse, HttpResponseRedirect
from django.urls import path


def health(request):
    return HttpResponse(f"{request.scheme} {request.get_host()}")


def broken(request):
    raise RuntimeError("the shelf is empty")


def hidden(request):
    return HttpResponse(status=403)


def loop(request):
    return HttpResponseRedirect(request.build_absolute_uri())


def moved(request):
    return HttpResponseRedirect("/health/")


def slow(request):
    time.sleep(30)
    return HttpResponse()


def call(request):
    from jobs import durable, tasks

    logging.getLogger("jobs").info("called")
    durable.flaky.delay(request.GET["name"], 1)
    tasks.work.delay(1)
    return HttpResponse()


urlpatterns = [
    path("call/", call),
    path("health/", health),
    path("broken/", broken),
    path("hidden/", hidden),
    path("loop/", loop),
    path("moved/", moved),
    path("slow/", slow),
]
