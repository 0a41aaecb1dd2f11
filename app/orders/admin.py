from django.contrib import admin, messages
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpRequest

from celeriac.models import Dead

from . import steps
from .models import Crate, Invoice, Notice, Order, OrderLine, OrderStep, Product
from .templatetags.money import money


class ReadOnlyInline(admin.TabularInline):
    extra = 0
    can_delete = False

    def get_readonly_fields(self, request: HttpRequest, obj: object = None) -> list[str]:
        return self.fields

    def has_add_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: object = None) -> bool:
        return False


class LineInline(ReadOnlyInline):
    model = OrderLine
    fields = ["product", "quantity", "price_cents"]


class StepInline(ReadOnlyInline):
    model = OrderStep
    fields = ["step", "attempts", "started_at", "finished_at"]


class CrateInline(ReadOnlyInline):
    model = Crate
    fields = ["side_cm", "picture", "packed_at"]


class InvoiceInline(ReadOnlyInline):
    model = Invoice
    fields = ["document", "issued_at"]


@admin.register(Order)
class OrderAdmin(admin.ModelAdmin):
    list_display = [
        "number",
        "name",
        "email",
        "total",
        "step",
        "stuck",
        "note",
        "created_at",
        "took",
    ]
    list_filter = ["step", "failed_step", "card", "created_at"]
    search_fields = ["=id", "name", "email", "public_id"]
    date_hierarchy = "created_at"
    readonly_fields = [
        field.name for field in Order._meta.fields if field.name not in ("name", "email")
    ]
    inlines = [LineInline, StepInline, CrateInline, InvoiceInline]
    actions = ["try_again"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Order]:
        letters = Dead.objects.filter(task_id=OuterRef("task_id"))
        return super().get_queryset(request).annotate(stuck=Exists(letters))

    @admin.display(boolean=True, ordering="stuck", description="needs a hand")
    def stuck(self, order: Order) -> bool:
        """Whether the task of its step is a dead letter."""
        return order.stuck

    @admin.display(ordering="total_cents")
    def total(self, order: Order) -> str:
        return money(order.total_cents)

    @admin.display(description="took")
    def took(self, order: Order) -> str:
        if not order.finished_at:
            return "\u2013"
        return f"{(order.finished_at - order.created_at).total_seconds():.1f} s"

    @admin.action(description="Send the selected orders on their way again")
    def try_again(self, request: HttpRequest, queryset: QuerySet[Order]) -> None:
        sent = sum(steps.try_again(order) for order in queryset)
        left = len(queryset) - sent
        words = "order is on its way" if sent == 1 else "orders are on their way"
        self.message_user(request, f"{sent} {words} again.", messages.SUCCESS)
        if left:
            self.message_user(
                request, f"Left alone, as finished or on their way: {left}.", messages.WARNING
            )


@admin.register(Product)
class ProductAdmin(admin.ModelAdmin):
    list_display = ["name", "price", "diameter_cm", "on_sale", "position"]
    list_editable = ["on_sale", "position"]
    prepopulated_fields = {"slug": ["name"]}

    @admin.display(ordering="price_cents")
    def price(self, product: Product) -> str:
        return money(product.price_cents)


@admin.register(Notice)
class NoticeAdmin(admin.ModelAdmin):
    list_display = ["orders_today", "counted_at"]

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False
