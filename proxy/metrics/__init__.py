"""Metrics: the daemon counts in plain numbers, and a scrape turns them into prometheus-client's families."""

from proxy.metrics.metrics import Metrics as Metrics
from proxy.metrics.records import DiscoveryRecord as DiscoveryRecord
from proxy.metrics.records import EntryRecord as EntryRecord
from proxy.metrics.records import Traffic as Traffic
