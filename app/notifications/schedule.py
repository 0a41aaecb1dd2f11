"""The periodic tasks of the notifications."""

from maintenance.schedule import Every

SCHEDULE = {
    "Thank for finished orders": Every("notifications.owe_thanks", seconds=15),
    "Tell staff of dead letters": Every("notifications.watch", seconds=15),
}
