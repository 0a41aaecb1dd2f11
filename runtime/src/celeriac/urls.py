"""The operations page: path("operations/", include("celeriac.urls"))."""

from django.urls import path

from celeriac import operations, runbooks

app_name = "celeriac"
urlpatterns = [
    path("", operations.page, name="operations"),
    path("runbooks/", runbooks.page, name="runbooks"),
    path("dead-letters/", operations.act, name="dead"),
]
