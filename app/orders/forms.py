"""The order form of the front page."""

import uuid

from django import forms

from .models import Card, Product

MOST_OF_ONE = 9


class OrderForm(forms.Form):
    name = forms.CharField(
        label="Your name",
        max_length=80,
        widget=forms.TextInput(attrs={"autocomplete": "name", "placeholder": "Ada Root"}),
        error_messages={"required": "Please tell us your name."},
    )
    email = forms.EmailField(
        label="Your e-mail",
        max_length=254,
        widget=forms.EmailInput(
            attrs={"autocomplete": "email", "placeholder": "ada@example.org", "inputmode": "email"}
        ),
        error_messages={
            "required": "Please tell us where to send the confirmation.",
            "invalid": "This does not look like an e-mail address.",
        },
    )
    card = forms.ChoiceField(
        label="Test card", choices=Card.choices, initial=Card.GOOD, required=False
    )
    form_key = forms.UUIDField(widget=forms.HiddenInput, required=False)

    def __init__(self, data=None, **kwargs) -> None:
        kwargs.setdefault("initial", {"form_key": uuid.uuid4()})
        super().__init__(data, **kwargs)
        self.products = list(Product.objects.filter(on_sale=True))
        for product in self.products:
            self.fields[f"quantity_{product.pk}"] = forms.IntegerField(
                label=f"How many: {product.name}",
                min_value=0,
                max_value=MOST_OF_ONE,
                required=False,
                widget=forms.NumberInput(attrs={"inputmode": "numeric", "placeholder": "0"}),
                error_messages={"max_value": f"At most {MOST_OF_ONE} of one kind, please."},
            )

    def shelf(self) -> list[tuple[Product, forms.BoundField]]:
        return [(product, self[f"quantity_{product.pk}"]) for product in self.products]

    def clean_card(self) -> str:
        return self.cleaned_data["card"] or Card.GOOD

    def clean_form_key(self) -> uuid.UUID:
        return self.cleaned_data["form_key"] or uuid.uuid4()

    def clean(self) -> dict:
        data = super().clean()
        self.quantities = {
            product.pk: data[f"quantity_{product.pk}"]
            for product in self.products
            if data.get(f"quantity_{product.pk}")
        }
        if not self.quantities and not self.errors:
            raise forms.ValidationError("Your crate is empty. Please choose at least one root.")
        return data
