"""Keys of photos that some system takes for others, and keys of what is no photo."""

ODD_KEYS = [
    "two words/a photo.jpg",
    "plus+sign.jpg",
    "100%.jpg",
    "a%20b.jpg",
    "crème/brûlée.jpg",
    "🍎/🍐.jpg",
    "a/b/c/d/e/f/g/h.jpg",
    "hash#and?mark.jpg",
    "star*[x]{y}~.jpg",
    "quote'\"s.jpg",
    "back\\slash.jpg",
    "e\u0301 combined.jpg",
]
IGNORED_KEYS = [
    *(".hidden.jpg", "_draft.jpg", ".folder/x.jpg", "_folder/x.jpg"),
    *("x.jpg.part", "x.jpg.tmp", "x.crdownload"),
]
