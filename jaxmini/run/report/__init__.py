"""Report: the figures of a finished run as a page, as Markdown, as JSON and as a closing table."""
