/* Preloaded into sshd: TCP_NODELAY on the client's socket, which sshd hands its per-connection process as standard input.
   Without it sshd's Nagle waits for our kernel's delayed ACK. No headers and no libc to link: gcc alone is enough. */
int setsockopt(int, int, int, const void *, unsigned);

__attribute__((constructor)) static void nodelay(void)
{
    int on = 1;
    setsockopt(0, 6 /* IPPROTO_TCP */, 1 /* TCP_NODELAY */, &on, sizeof on);
}
