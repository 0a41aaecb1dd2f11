from django.contrib import admin
from django.http import HttpRequest

from .models import Day, Report


class ReadOnly(admin.ModelAdmin):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(Report)
class ReportAdmin(ReadOnly):
    list_display = ["__str__", "asked_by", "asked_at", "finished_at", "orders"]
    date_hierarchy = "asked_at"


@admin.register(Day)
class DayAdmin(ReadOnly):
    list_display = ["day", "orders", "cents"]
    date_hierarchy = "day"
