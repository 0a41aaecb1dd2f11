"""The pages of the reports, for staff."""

from datetime import UTC

from django.contrib import messages
from django.contrib.admin.views.decorators import staff_member_required
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from . import services
from .forms import ReportForm
from .models import Report

SHOWN = 20


@never_cache
@staff_member_required
@require_http_methods(["GET", "HEAD", "POST"])
def reports(request: HttpRequest) -> HttpResponse:
    """The latest reports, and the form that orders one, now or for tonight."""
    today = services.today()
    form = ReportForm(request.POST or None, initial={"first": today.replace(day=1), "last": today})
    if request.method == "POST" and form.is_valid():
        days = form.cleaned_data["first"], form.cleaned_data["last"]
        if "tonight" in request.POST:
            moment = services.order_tonight(*days).astimezone(UTC)
            messages.success(request, f"It will be made on {moment:%-d %B at %H:%M} UTC.")
            return redirect("reports:reports")
        report, _ = services.order_report(*days, asked_by=request.user)
        return redirect(report)
    context = {"form": form, "reports": Report.objects.select_related("asked_by")[:SHOWN]}
    return render(request, "reports/reports.html", context, status=422 if form.errors else 200)


@never_cache
@staff_member_required
@require_safe
def report(request: HttpRequest, pk: int) -> HttpResponse:
    """One report and how far it is; a script renews it, or without scripts the browser does."""
    found = get_object_or_404(Report, pk=pk)
    context = {"report": found, "progress": services.progress(found)}
    return render(request, "reports/report.html", context)


@never_cache
@staff_member_required
@require_safe
def progress(request: HttpRequest, pk: int) -> JsonResponse:
    """How far it is, as JSON."""
    return JsonResponse(services.progress(get_object_or_404(Report, pk=pk)))


@never_cache
@staff_member_required
@require_safe
def download(request: HttpRequest, pk: int) -> HttpResponse:
    """The table as CSV."""
    found = get_object_or_404(Report, pk=pk)
    if not found.finished_at:
        raise Http404
    name = f"sales-{found.first_day}-{found.last_day}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return HttpResponse(found.csv, content_type="text/csv; charset=utf-8", headers=headers)


@staff_member_required
@require_POST
def try_again(request: HttpRequest, pk: int) -> HttpResponse:
    """Send what has failed on its way again."""
    found = get_object_or_404(Report, pk=pk)
    services.try_again(found)
    return redirect(found)
