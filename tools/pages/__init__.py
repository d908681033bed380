"""The HTML pages that commands write: one style, light and dark; a page needs nothing else, no network and no script."""
