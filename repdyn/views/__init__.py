"""One plotly figure per result, and the report that gathers them.

Every picture is a pure function from arrays to a :class:`plotly.graph_objects.Figure` in its own module,
imported when called (``from repdyn.views.trees import two_trees``), so that nothing loads plotly before
something is drawn. The views know arrays, never the rooms that made them.
"""
