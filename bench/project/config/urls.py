"""One page, which says that the database answers, and which version does."""

from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.urls import path

from config.version import VERSION


def health(request: HttpRequest) -> HttpResponse:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return HttpResponse(f"ok {VERSION}\n", content_type="text/plain")


urlpatterns = [path("", health)]
