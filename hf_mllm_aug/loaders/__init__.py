"""From a published form of a data set to rows of `schema`: key, image, url, caption."""
