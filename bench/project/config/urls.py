"""One page, for visitors and for the probe: that the database answers, and which version does."""

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

from config.version import VERSION


def page(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse(f"ok {VERSION}\n", content_type="text/plain")


urlpatterns = [path("", page), path("health", page)]
