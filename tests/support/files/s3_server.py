"""moto's S3 as a WSGI application, for a server that keeps connections as S3 does."""

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

application = DomainDispatcherApplication(create_backend_app)
