from django.urls import path

from . import views

app_name = "orders"
urlpatterns = [
    path("", views.front, name="front"),
    path("orders/<uuid:public_id>/", views.order, name="order"),
    path("orders/<uuid:public_id>/progress/", views.order_progress, name="progress"),
]
