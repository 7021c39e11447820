"""What happened: events, deliveries, steps, effects and the views folded from them."""
