from django.apps import AppConfig


class NotificationsConfig(AppConfig):
    name = "notifications"

    def ready(self) -> None:
        from orders.signals import order_delayed, words_wanted

        from . import services

        order_delayed.connect(services.order_delayed)
        words_wanted.connect(services.words_for)
