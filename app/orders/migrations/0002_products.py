"""The first products. Rows that staff have changed since stay as they are."""

from django.db import migrations

PRODUCTS = [
    ("celeriac", "Celeriac", "Ugly outside, silky inside. The house favourite.", 320, 14, "#d8c49a"),
    ("beetroot", "Beetroot", "Sweet, earthy, and not shy about it.", 240, 9, "#8e2a4c"),
    ("carrot", "Carrot", "Pulled this morning, leaves and all.", 180, 6, "#e0792f"),
    ("turnip", "Turnip", "Purple shoulders, peppery heart.", 210, 8, "#c98bb0"),
    ("parsnip", "Parsnip", "Better after the first frost.", 220, 7, "#eadfb8"),
    ("potato", "Potato", "Floury, yellow, made for butter.", 150, 7, "#cfa25a"),
]


def create(apps, schema_editor) -> None:
    product = apps.get_model("orders", "Product")
    for position, (slug, name, blurb, price, diameter, colour) in enumerate(PRODUCTS):
        product.objects.get_or_create(
            slug=slug,
            defaults={
                "name": name,
                "blurb": blurb,
                "price_cents": price,
                "diameter_cm": diameter,
                "colour": colour,
                "position": position,
            },
        )


class Migration(migrations.Migration):
    dependencies = [("orders", "0001_initial")]
    operations = [migrations.RunPython(create, migrations.RunPython.noop, elidable=False)]
