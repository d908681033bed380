"""The HTML pages that commands write, in one style, light and dark. They need nothing else: no network, no script."""
