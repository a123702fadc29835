"""HTTP in: routes, middleware, replies. Never sees tokens, disk layout or what manifests say."""
