"""The nightly look at the ledger: is it still what it was, and is its head kept where nobody here can change it?"""

from prefect import flow
from prefect.client.schemas.objects import State

from tasks import auditing


@flow(name="anchor-ledger", flow_run_name="check and anchor the ledger")
def anchor_ledger() -> State[None]:
    """Check the whole ledger against its seals and anchors, anchor its head, and publish what was found."""
    done = auditing.audit()
    auditing.publish(done)
    return auditing.state(done)
