"""Tell three cultivars of wine apart by their chemistry."""
