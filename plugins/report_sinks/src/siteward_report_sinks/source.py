"""Where the site keeps what is nobody else's business: a variable of siteward's own environment, or a file."""

from __future__ import annotations

import os
from pathlib import Path

from attrs import field, frozen


@frozen(kw_only=True)
class Source:
    """One secret of the site, which no job can ask for."""

    env: str | None = field(default=None, metadata={"help": "a variable of siteward's own environment"})
    file: str | None = field(
        default=None, metadata={"help": "a file with it alone; a relative path starts at the site file's folder"}
    )

    def __attrs_post_init__(self) -> None:
        """Refuse none, and both."""
        if (self.env is None) == (self.file is None):
            raise ValueError("expected exactly one of env and file")

    def read(self, base_dir: Path) -> str:
        """Return it, without white space around it; ValueError says why it cannot be had."""
        if self.env is not None:
            if not os.environ.get(self.env):
                raise ValueError(f"the variable {self.env} is not set where siteward runs; set it")
            return os.environ[self.env].strip()
        path = base_dir / os.path.expanduser(self.file or "")
        try:
            return path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"the file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
