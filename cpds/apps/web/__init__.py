"""The page of `cpds demo`: edits in a browser, each visitor's own, done one after the other on every device."""
