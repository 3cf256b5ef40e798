"""Composition of queued e-mails when they are sent."""

from services.auth.accounts.model import Account, AccountStore
from services.auth.alerts.model import AlertStore
from services.auth.alerts.texts import alert_text
from services.auth.keys.pepper import Pepper
from services.auth.mail.queue import QueuedEmail, Topic
from services.auth.mail.templates import Email, EmailTemplates
from services.auth.sessions.one_time_tokens import OneTimeTokenStore, Purpose, mint_token
from services.common.errors import NotFound
from services.common.runtime.clock import Clock, utc_now


class MailComposer:
    """Composes queued e-mails and creates the one-time tokens in them."""

    def __init__(
        self,
        accounts: AccountStore,
        tokens: OneTimeTokenStore,
        templates: EmailTemplates,
        alerts: AlertStore,
        *,
        pepper: Pepper,
        clock: Clock,
    ) -> None:
        self._accounts = accounts
        self._tokens = tokens
        self._templates = templates
        self._alerts = alerts
        self._pepper = pepper
        self._clock = clock

    async def compose(self, queued: QueuedEmail) -> Email | None:
        """Return the e-mail to send, or None if no e-mail is needed, for example without an account."""
        account = await self._account(queued)
        if account is None:
            return None
        try:
            return await self._write(queued, account)
        except NotFound:  # The account has just been deleted.
            return None

    async def _write(self, queued: QueuedEmail, account: Account) -> Email | None:
        is_verified = account.email_verified_at is not None
        match queued.topic:
            case Topic.SIGN_UP if account.id == queued.opened_account_id:
                return self._templates.verification(
                    account.email, await self._token(Purpose.VERIFY_EMAIL, account, queued)
                )
            case Topic.SIGN_UP if is_verified:
                return self._templates.already_registered(account.email)
            case Topic.SIGN_UP | Topic.VERIFICATION if not is_verified:
                # The mailbox owner chooses the password: someone else may have signed up with the current one.
                token = await self._token(Purpose.RESET_PASSWORD, account, queued)
                return self._templates.first_password(account.email, token)
            case Topic.PASSWORD_RESET:
                token = await self._token(Purpose.RESET_PASSWORD, account, queued)
                return self._templates.password_reset(account.email, token)
            case Topic.FAILED_LOG_INS:
                return self._templates.failed_log_ins(account.email)
            case Topic.ALERT:
                alert = await self._alerts.to_mail(queued.alert_id or "")
                return self._templates.alert(account.email, *alert_text(alert)) if alert else None
        return None

    async def _account(self, queued: QueuedEmail) -> Account | None:
        """Return the account of the address; for a sign-up, also an account of the same mailbox."""
        if queued.topic is Topic.SIGN_UP:
            return await self._accounts.find_by_mailbox(queued.to)
        credentials = await self._accounts.credentials(queued.to)
        return credentials.account if credentials else None

    async def _token(self, purpose: Purpose, account: Account, queued: QueuedEmail) -> str:
        minted = mint_token(purpose, account_id=account.id, pepper=self._pepper, clock=self._clock)
        await self._tokens.add(minted.kept, by=queued.by, at=utc_now(self._clock))
        return minted.text
