"""The papers of an order: the picture of its crate (SVG) and its invoice (PDF)."""

import math
from io import BytesIO
from xml.sax.saxutils import quoteattr

from reportlab.lib.colors import HexColor
from reportlab.lib.pagesizes import A5
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas

from .models import Order
from .packing import Packed
from .templatetags.money import money

_GREEN, _EARTH, _LINE = HexColor("#24523b"), HexColor("#3a2c20"), HexColor("#d9cdb8")


def crate_picture(packed: Packed) -> bytes:
    """The crate from above, as an SVG without scripts or styles."""
    side = packed.side_cm
    edge = side * 0.05
    whole = side + 2 * edge
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg"',
        f' viewBox="{-edge:g} {-edge:g} {whole:g} {whole:g}">',
        f'<rect x="{-edge:g}" y="{-edge:g}" width="{whole:g}" height="{whole:g}"',
        f' rx="{edge:g}" fill="#b98d5d"/>',
        f'<rect width="{side}" height="{side}" rx="{edge / 2:g}" fill="#6f4e31"/>',
    ]
    for plank in range(1, 5):
        y = side * plank / 5
        parts.append(
            f'<path d="M0 {y:g}H{side}" stroke="#5d4027" stroke-width="{side * 0.008:g}"/>'
        )
    for root in packed.roots:
        parts.append(_root(root.x, root.y, root.radius, root.colour))
    return "".join([*parts, "</svg>"]).encode()


def _root(x: float, y: float, radius: float, colour: str) -> str:
    """A knobbly root with a tuft of leaves, seen from above."""
    bumps = 9
    points = []
    for index in range(bumps * 2):
        angle = math.pi * index / bumps
        reach = radius * (0.97 if index % 2 else 0.91)
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    start = _middle(points[-1], points[0])
    path = f"M{start[0]:.2f} {start[1]:.2f}"
    for index, point in enumerate(points):
        end = _middle(point, points[(index + 1) % len(points)])
        path += f"Q{point[0]:.2f} {point[1]:.2f} {end[0]:.2f} {end[1]:.2f}"
    leaves = "".join(
        f'<ellipse cx="{x:.2f}" cy="{y - radius * 0.3:.2f}" rx="{radius * 0.12:.2f}"'
        f' ry="{radius * 0.32:.2f}" fill="{green}" transform="rotate({turn} {x:.2f} {y:.2f})"/>'
        for turn, green in (
            (0, "#7fae63"),
            (72, "#5f9150"),
            (144, "#7fae63"),
            (216, "#5f9150"),
            (288, "#6ba058"),
        )
    )
    return (
        f'<path d="{path}Z" fill={quoteattr(colour)}/>'
        f'<circle cx="{x - radius * 0.3:.2f}" cy="{y - radius * 0.32:.2f}" r="{radius * 0.42:.2f}"'
        f' fill="#fff" fill-opacity=".14"/>{leaves}'
    )


def _middle(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return (one[0] + other[0]) / 2, (one[1] + other[1]) / 2


def invoice(order: Order) -> bytes:
    """The invoice as a PDF of A5 pages. The same order gives the same bytes."""
    out = BytesIO()
    width, height = A5
    left, right = 16 * mm, width - 16 * mm
    page = Canvas(out, pagesize=A5, invariant=1)
    page.setTitle(f"Invoice {order.number}")
    page.setAuthor("Knobbly")

    def heading() -> float:
        page.setFillColor(_GREEN)
        page.rect(0, height - 30 * mm, width, 30 * mm, stroke=0, fill=1)
        page.setFillColor(HexColor("#fbf6ec"))
        page.setFont("Helvetica-Bold", 22)
        page.drawString(left, height - 19 * mm, "Knobbly")
        page.setFont("Helvetica", 9)
        page.drawRightString(right, height - 15 * mm, f"Invoice {order.number}")
        page.drawRightString(right, height - 20 * mm, f"{order.created_at:%d %B %Y}")
        page.setFillColor(_EARTH)
        return height - 42 * mm

    y = heading()
    page.setFont("Helvetica", 10)
    page.drawString(left, y, f"For {_latin(order.name)}")
    page.drawString(left, y - 5 * mm, _latin(order.email))
    y -= 17 * mm
    for line in order.lines.select_related("product"):
        if y < 35 * mm:
            page.showPage()
            y = heading()
            page.setFont("Helvetica", 10)
        page.drawString(left, y, f"{line.quantity} \u00d7 {_latin(line.product.name)}")
        page.drawRightString(right, y, money(line.total_cents))
        page.setStrokeColor(_LINE)
        page.line(left, y - 2.4 * mm, right, y - 2.4 * mm)
        y -= 8 * mm
    page.setFont("Helvetica-Bold", 12)
    page.drawString(left, y - 3 * mm, "Total, paid by card")
    page.drawRightString(right, y - 3 * mm, money(order.total_cents))
    page.setFont("Helvetica", 8)
    page.drawString(
        left, 14 * mm, "Thank you. Roots keep best in the dark, cool and a little damp."
    )
    page.showPage()
    page.save()
    return out.getvalue()


def _latin(text: str) -> str:
    """The PDF's built-in fonts know Western European letters only."""
    return text.encode("cp1252", "replace").decode("cp1252")
