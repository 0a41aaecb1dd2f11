"""The shop's pages."""

import uuid

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_safe

from . import progress, services
from .forms import OrderForm
from .models import Notice, Order


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def front(request: HttpRequest) -> HttpResponse:
    """The shelf and the order form; a good order leads to its page."""
    form = OrderForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        order = services.place_order(
            name=form.cleaned_data["name"],
            email=form.cleaned_data["email"],
            card=form.cleaned_data["card"],
            quantities=form.quantities,
            form_key=form.cleaned_data["form_key"],
        )
        return redirect(order)
    context = {"form": form, "notice": Notice.objects.first()}
    return render(request, "orders/front.html", context, status=422 if form.errors else 200)


@never_cache
@require_safe
def order(request: HttpRequest, public_id: uuid.UUID) -> HttpResponse:
    """The order and its timeline; a script renews it, or without scripts the browser does."""
    found = _find(public_id)
    context = {
        "order": found,
        "lines": found.lines.select_related("product"),
        "stages": progress.stages(found),
        "headline": progress.headline(found),
        "words": progress.messages(found),
    }
    return render(request, "orders/order.html", context)


@never_cache
@require_safe
def order_progress(request: HttpRequest, public_id: uuid.UUID) -> JsonResponse:
    """The timeline as JSON."""
    return JsonResponse(progress.as_json(_find(public_id)))


def _find(public_id: uuid.UUID) -> Order:
    orders = Order.objects.select_related("crate", "invoice").prefetch_related("steps")
    return get_object_or_404(orders, public_id=public_id)
