"""From files to arrays and back: TIFF volumes, their axes, tables, downloads."""
