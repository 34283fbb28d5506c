def test_try(places):
    place = places("watch", "list")
    site = place.site()
