"""Where the tables of the store are registered, so that each part may define its own."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()
