"""Files in PostgreSQL, for projects on several hosts without a storage that all of them reach.

    STORAGES = {"default": {"BACKEND": "celeriac.files.DatabaseStorage"}, …}
    urlpatterns += [path("media/<path:name>", celeriac.files.serve)]

A file is written in the caller's transaction, over one of the same name. Meant for papers of up
to a few megabytes: each is held in memory as a whole.
"""

import mimetypes
from datetime import datetime
from urllib.parse import quote

from django.conf import settings
from django.core.files.base import ContentFile, File
from django.core.files.storage import Storage
from django.http import FileResponse, Http404, HttpRequest
from django.utils.deconstruct import deconstructible
from django.utils.timezone import now

from celeriac.models import StoredFile


@deconstructible
class DatabaseStorage(Storage):
    """Django's storage interface over the table of files."""

    def _open(self, name: str, mode: str = "rb") -> File:
        if mode != "rb":
            raise ValueError(f"mode is {mode!r}; files in the database are opened with 'rb' only")
        try:
            return ContentFile(bytes(StoredFile.objects.get(name=name).content), name=name)
        except StoredFile.DoesNotExist:
            raise FileNotFoundError(name) from None

    def _save(self, name: str, content: File) -> str:
        content.seek(0)
        data = content.read()
        data = data.encode() if isinstance(data, str) else data
        StoredFile.objects.update_or_create(
            name=name, defaults={"content": data, "size": len(data), "written_at": now()}
        )
        return name

    def get_available_name(self, name: str, max_length: int | None = None) -> str:
        """A step that runs again writes the same file again."""
        return name

    def exists(self, name: str) -> bool:
        return StoredFile.objects.filter(name=name).exists()

    def delete(self, name: str) -> None:
        StoredFile.objects.filter(name=name).delete()

    def size(self, name: str) -> int:
        return self._value(name, "size")

    def get_modified_time(self, name: str) -> datetime:
        return self._value(name, "written_at")

    def url(self, name: str | None) -> str:
        return settings.MEDIA_URL + quote(name or "")

    def _value(self, name: str, field: str) -> object:
        found = StoredFile.objects.filter(name=name).values_list(field, flat=True).first()
        if found is None:
            raise FileNotFoundError(name)
        return found


def serve(request: HttpRequest, name: str) -> FileResponse:
    """A view that hands out a file by its name."""
    try:
        found = DatabaseStorage().open(name)
    except FileNotFoundError:
        raise Http404 from None
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return FileResponse(found, content_type=kind, headers={"Cache-Control": "max-age=3600"})
