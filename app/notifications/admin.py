from django.contrib import admin
from django.http import HttpRequest

from .models import Alert, Message


class ReadOnly(admin.ModelAdmin):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


@admin.register(Message)
class MessageAdmin(ReadOnly):
    list_display = ["order", "kind", "text", "created_at"]
    list_select_related = ["order"]
    list_filter = ["kind"]
    search_fields = ["=order__id", "text"]


@admin.register(Alert)
class AlertAdmin(ReadOnly):
    list_display = ["task", "reason", "task_id", "created_at", "mailed_at", "posted_at"]
    list_filter = ["task", "reason"]
    search_fields = ["task_id"]
