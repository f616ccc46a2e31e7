"""plotly's script as a page carries it: compressed, since it is most of the page's size."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from markupsafe import Markup

#: folder of what all pages include
SHARED = Path(__file__).parent / "templates"


@cache
def compressed_plotly() -> Markup:
    """The script by gzip, in base64: 2 MB instead of 4.8. ``templates/plotly.html`` unpacks it in the browser."""
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    # plotly's own code: the only text that is not escaped, and no data is in it
    return Markup(base64.b64encode(gzip.compress(get_plotlyjs().encode(), 9, mtime=0)).decode())
