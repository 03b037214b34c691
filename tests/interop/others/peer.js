// peer.js serve BIG VERSION CHAIN KEY [CA]     a server that knows GET (sends the file BIG) and PUT N (says the digest of N bytes)
// peer.js connect BIG VERSION CA PORT FILE [CHAIN KEY]     sends FILE to an echo, checks what comes back, twice: the second
// time resumed. VERSION is 1.2, 1.3 or any. The certificates of clients are asked for if CA is given.
const fs = require('fs'), tls = require('tls'), crypto = require('crypto');
const [mode, big, version, ...rest] = process.argv.slice(2);
const range = version === 'any' ? {} : { minVersion: 'TLSv' + version, maxVersion: 'TLSv' + version };

function serve(chain, key, ca) {
    const o = { ...range, cert: fs.readFileSync(chain), key: fs.readFileSync(key) };
    if (ca) Object.assign(o, { ca: fs.readFileSync(ca), requestCert: true, rejectUnauthorized: true });
    const server = tls.createServer(o, s => {
        let got = [], size = 0, want = -1;
        s.on('error', e => console.log('error', e.message));
        s.on('data', d => {
            if (want < 0) {
                const end = d.indexOf(10), words = d.subarray(0, end).toString().split(' ');
                if (words[0] === 'GET') return s.end(fs.readFileSync(big));
                want = Number(words[1]);
                d = d.subarray(end + 1);
            }
            got.push(d);
            size += d.length;
            if (size === want) s.end(crypto.createHash('sha256').update(Buffer.concat(got)).digest('hex') + '\n');
        });
    });
    server.on('tlsClientError', e => console.log('error', e.message));
    server.listen(0, '127.0.0.1', () => console.log('port', server.address().port));
}

function connect(ca, port, file, chain, key) {
    const data = fs.readFileSync(file);
    const once = (session, then) => {
        const o = { ...range, host: 'localhost', port: Number(port), servername: 'localhost', ca: fs.readFileSync(ca), session };
        if (chain) Object.assign(o, { cert: fs.readFileSync(chain), key: fs.readFileSync(key) });
        let ticket = null, got = 0;
        const s = tls.connect(o);
        s.on('session', t => { ticket = t; });
        s.on('error', e => { console.log('error', e.message); process.exit(1); });
        s.on('secureConnect', () => s.write(data));
        s.on('data', d => {
            if (!d.equals(data.subarray(got, got + d.length))) { console.log('the echo is wrong'); process.exit(1); }
            got += d.length;
            if (got < data.length) return;
            console.log(s.getProtocol(), s.getCipher().name, s.isSessionReused() ? 'resumed' : 'full');
            s.end();
            then(ticket);
        });
    };
    once(undefined, t => once(t, () => {}));
}
(mode === 'serve' ? serve : connect)(...rest);
