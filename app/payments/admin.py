from django.contrib import admin

from .models import BankEntry, Payment


@admin.register(Payment)
class PaymentAdmin(admin.ModelAdmin):
    list_display = ["reference", "order", "amount_cents", "paid_at"]
    list_select_related = ["order"]
    search_fields = ["reference", "order__email"]
    date_hierarchy = "paid_at"
    readonly_fields = ["order", "amount_cents", "reference", "paid_at"]


@admin.register(BankEntry)
class BankEntryAdmin(admin.ModelAdmin):
    list_display = ["key", "amount_cents", "asked", "reference"]
    search_fields = ["key", "reference"]
