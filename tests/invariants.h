/* invariants.h - what must hold of every socket and every poller between calls: with PSOCKET_CHECK naming this file psocket.h
   includes it and asks after each call. */
#define PSI_SURE(x) ((x) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x), abort()))

static void psi_check_ring(const psi_ring *r)
{
    uint32_t at = r->head, bytes = 0, most = 64; /* many chunks would cost time after each call */
    if (!r->buf) {
        PSI_SURE(!r->cap && !r->head && !r->end && !r->raw && !r->tail && !r->bytes);
        return;
    }
    PSI_SURE(r->head <= r->end && r->end + PSI_RING_HEAD <= r->raw && r->raw <= r->tail && r->tail <= r->cap);
    for (; at != r->end && most; at = psi_ring_payload(r, at) + psi_ring_get(r, at), most--) {
        PSI_SURE(at < r->end && psi_ring_payload(r, at) + psi_ring_get(r, at) <= r->end);
        bytes += psi_ring_get(r, at);
    }
    PSI_SURE((at == r->end ? bytes == r->bytes : bytes <= r->bytes) && r->seen[0].bytes <= r->bytes && r->seen[1].bytes <= r->bytes);
}

/* Has it what its state asks for, and nothing else? */
static void psi_check_state(const psocket *s)
{
    int moves = s->state == PSI_HANDSHAKING || s->state == PSI_OPEN, over = s->state >= PSI_ENDED;
    PSI_SURE((s->state > PSI_HANDSHAKING && !s->listens && !s->secured) || s->of.tls);
    PSI_SURE(!s->secured || (s->state > PSI_HANDSHAKING && !s->listens));
    PSI_SURE((s->io != NULL) == moves && (!psi_sock_rec(s) || s->state == PSI_OPEN));
    PSI_SURE(s->state != PSI_LISTENING || (s->listens && s->fd != -1));
    if (over) PSI_SURE(s->end_in < 0 && s->end_out < 0 && !psi_sock_unsent(s) && s->fd == -1);
}

static void psi_check_sock(const psocket *s)
{
    psi_check_ring(&s->ring);
    psi_check_state(s);
    PSI_SURE(s->end_in <= 0 && s->end_out <= PSI_FINISHING && s->code <= 0);
    if (psi_sock_unsent(s)) PSI_SURE(s->of.tls->rec && s->of.tls->at < s->of.tls->len);
    else PSI_SURE(!psi_sock_tls(s) || (!s->of.tls->at && !s->of.tls->len));
    PSI_SURE(s->timeout || (!s->due[0] && !s->due[1]));
    if (s->watch.poller) PSI_SURE(s->watch.is_sock && s->state != PSI_CLOSED);
    if (s->carries) PSI_SURE(psi_sock_above(s)->user == s && !s->watch.poller);
}

static void psi_check_poller(const psocket_poller *p)
{
    const psi_link *at;
    int i, hot = 0;
    for (i = 0; i < p->count; i++) {
        const psocket_watch *w = p->heap[i];
        PSI_SURE(w->heap == i && w->poller == p && psi_watch_key(p->heap[i ? (i - 1) / 2 : 0]) <= psi_watch_key(w));
        PSI_SURE(!w->given || p->given[w->given - 1] == w);
        PSI_SURE(w->is_sock || !w->more);
        hot += w->link.next != NULL;
    }
    for (at = p->hot.next; at != &p->hot; at = at->next, hot--) PSI_SURE(at->next->prev == at);
    PSI_SURE(!hot && p->given_count >= 0 && p->given_count <= PSI_EVENTS);
    for (i = 0; i < p->given_count; i++) PSI_SURE(!p->given[i] || p->given[i]->given == i + 1);
}
