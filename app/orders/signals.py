"""What other domains may listen to; the orders know nothing of them.

A receiver runs in the caller's transaction: what it writes and owes is there if the rest is.
"""

from django.dispatch import Signal

# A step is tried again. Arguments: order_id, step, tries (how many there were).
order_delayed = Signal()
# The page of an order is shown. Argument: order. Whoever has words for the customer returns a list
# of (moment, text).
words_wanted = Signal()
