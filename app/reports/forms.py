"""What staff fill in for a report."""

from django import forms

from . import services


def day(label: str) -> forms.DateField:
    # The browser's own calendar, which understands ISO dates only.
    widget = forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"})
    return forms.DateField(label=label, widget=widget)


class ReportForm(forms.Form):
    first = day("First day")
    last = day("Last day")

    def clean(self) -> dict[str, object]:
        data = super().clean()
        first, last = data.get("first"), data.get("last")
        if first and last:
            if first > last:
                raise forms.ValidationError("The first day is after the last one.")
            if last > services.today():
                raise forms.ValidationError("The last day has not come yet.")
            if (last - first).days >= services.MOST_DAYS:
                raise forms.ValidationError("A report covers a year at most.")
        return data
