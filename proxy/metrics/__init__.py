"""What Prometheus scrapes: plain numbers, of which a scrape makes prometheus-client's families."""

from proxy.metrics.metrics import Metrics as Metrics
from proxy.metrics.records import Traffic as Traffic
