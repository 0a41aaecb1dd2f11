"""The outbox and the dead letters in Django's admin: look, replay, discard."""

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest

from celeriac import deadletters
from celeriac.models import Dead, Outbox


class ReadOnly(admin.ModelAdmin):
    """Rows are changed by actions only."""

    list_filter = ("task",)
    search_fields = ("task_id", "task", "error")
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_replay_permission(self, request: HttpRequest) -> bool:
        """Whoever may discard may replay: both end the letter."""
        return self.has_delete_permission(request)

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        actions.pop("delete_selected", None)  # discard says the same in the words of the page
        return actions

    @admin.action(description="Discard", permissions=["delete"])
    def discard(self, request: HttpRequest, queryset: QuerySet) -> None:
        count = queryset.delete()[0]
        self.message_user(request, f"{count} discarded.", messages.SUCCESS)


@admin.register(Outbox)
class OutboxAdmin(ReadOnly):
    list_display = ("task", "arguments", "queue", "due_at", "sent_at", "sends", "created_at")
    ordering = ("seq",)
    actions = ("discard",)


@admin.register(Dead)
class DeadAdmin(ReadOnly):
    list_display = ("task", "arguments", "reason", "deaths", "durable", "queue", "died_at")
    list_filter = ("reason", "task", "durable")
    ordering = ("-died_at",)
    actions = ("replay", "discard")

    @admin.action(description="Replay", permissions=["replay"])
    def replay(self, request: HttpRequest, queryset: QuerySet) -> None:
        try:
            count = deadletters.replay(queryset)
        except Exception as error:
            self.message_user(request, f"Not replayed: {error}", messages.ERROR)
        else:
            self.message_user(request, f"{count} sent again.", messages.SUCCESS)
