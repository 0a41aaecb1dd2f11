"""What staff fill in for a report."""

from django import forms

from . import services


class ReportForm(forms.Form):
    first = forms.DateField(label="First day", widget=forms.DateInput(attrs={"type": "date"}))
    last = forms.DateField(label="Last day", widget=forms.DateInput(attrs={"type": "date"}))

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
