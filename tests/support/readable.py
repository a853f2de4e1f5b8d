"""Whether the words of a figure can be read."""

from itertools import combinations

from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text


def assert_readable(figure: Figure) -> None:
    """No text below 9 points, or beyond the edge of the page; no title over another."""
    FigureCanvasAgg(figure).draw()
    hidden = {id(text) for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in _beyond(axis)}
    texts = [text for text in figure.findobj(Text) if text.get_text().strip() and text.get_visible()]
    shown = [text for text in texts if id(text) not in hidden]
    assert len(shown) > 2
    for text in shown:
        assert text.get_fontsize() >= 9, text.get_text()
        box = text.get_window_extent()
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1
        assert inside, text.get_text()
    titles = {axes.get_title(place) for axes in figure.axes for place in ("left", "center", "right")}
    boxes = [text.get_window_extent() for text in shown if text.get_text() in titles]
    assert not any(first.overlaps(second) for first, second in combinations(boxes, 2)), titles


def _beyond(axis: Axis) -> list[Text]:
    """Labels of ticks beyond the limits: they are kept, but not drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
    return [label for tick in ticks if not low <= tick.get_loc() <= high for label in (tick.label1, tick.label2)]
