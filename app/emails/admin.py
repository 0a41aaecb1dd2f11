from django.contrib import admin

from .models import Mail


@admin.register(Mail)
class MailAdmin(admin.ModelAdmin):
    list_display = ["subject", "to", "order", "tries", "created_at", "sent_at"]
    list_select_related = ["order"]
    list_filter = ["sent_at"]
    search_fields = ["to", "subject", "message_id"]
    readonly_fields = [
        "key",
        "order",
        "to",
        "subject",
        "message_id",
        "tries",
        "created_at",
        "sent_at",
    ]
