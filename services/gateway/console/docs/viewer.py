"""The files of the packaged viewer of the API reference, Swagger UI."""

from pathlib import Path

from swagger_ui_bundle import swagger_ui_path

VIEWER_FILES = {name: Path(swagger_ui_path) / name for name in ("swagger-ui.css", "swagger-ui-bundle.js")}
"""Files by the names under which they are served."""
