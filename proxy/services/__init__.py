"""What to do with a request, once it is understood: blobs, manifests, uploads, listings.

Services decide between disk and upstream. They never see web requests, tokens or temporary paths.
"""
