from django.conf import settings
from django.conf.urls.static import static
from django.contrib import admin
from django.contrib.staticfiles.urls import staticfiles_urlpatterns
from django.urls import include, path

from celeriac.files import serve

from . import domains
from .health import health

admin.site.site_header = admin.site.site_title = "Knobbly"

urlpatterns = [
    path("health/", health, name="health"),
    path("admin/", admin.site.urls),
    path("operations/", include("celeriac.urls")),
    *(path("", include(pages)) for pages in domains.modules("urls")),
]

if settings.APP_FILES == "database":
    urlpatterns.append(path("media/<path:name>", serve))

if settings.DEBUG:
    # Elsewhere nginx serves both.
    urlpatterns += staticfiles_urlpatterns()
    urlpatterns += static(settings.MEDIA_URL, document_root=settings.MEDIA_ROOT)
