"""What Prometheus sees: plain numbers while clients are served, prometheus-client's families when somebody
asks.
"""

from proxy.metrics.metrics import Metrics as Metrics
from proxy.metrics.records import Traffic as Traffic
