-- The programs in examples/, run as their users run them.
local t = require "check"
local psocket = t.psocket
local check, equal = t.check, t.equal

local here = (arg[0]:match("^(.*/)") or "./")
local certs = (os.getenv("PSOCKET_CERTS") or "build/certs") .. "/"

-- Starts an example as a process that ends by itself after 20 s; returns its output and its process id.
local function start(command)
  local out = io.popen("echo $$; exec timeout 20 " .. t.interpreter() .. " " .. here .. "../../examples/" .. command .. " 2>&1", "r")
  return out, tonumber((out:read("*l")))
end

local function stop(out, pid)
  os.execute("kill " .. pid)
  out:close()
end

local function port_of(out)
  local line = out:read("*l") or ""
  local port = tonumber(line:match("(%d+)/?$"))
  if not port then error("the server says: " .. line .. (out:read("*a") or "")) end
  return port, line
end

local function get(port, request)
  local s = assert(psocket.connect("127.0.0.1", port, { timeout = 10 }))
  s:send(request)
  local all = {}
  while true do
    local data, _, name = s:recv()
    if not data then return table.concat(all), name end
    all[#all + 1] = data
  end
end

t.test("hello_server", function()
  local out, pid = start("hello_server.lua")
  local port = port_of(out)
  local text, name = get(port, "GET / HTTP/1.0\r\n\r\n")
  check(text:find("Content-Length: 13\r\n\r\nHello, world!", 1, true), text)
  equal(name, "CLOSED")
  local s = assert(psocket.connect("127.0.0.1", port, { timeout = 10 }))
  for _ = 1, 3 do
    s:send("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    check(s:read_until("\r\n\r\n"):find("Keep-Alive", 1, true))
    equal(s:read(13), "Hello, world!")
  end
  stop(out, pid)
end)

t.test("https_server and https_get", function()
  if select(3, psocket.tls {}) == "UNSUPPORTED" then return end
  local out, pid = start("https_server.lua 0 " .. certs .. "rsa.pem " .. certs .. "rsa.key")
  local port, line = port_of(out)
  equal(line, "listening on https://localhost:" .. port .. "/")
  for _, host in ipairs { "localhost", "127.0.0.1" } do
    local got = start("https_get.lua https://" .. host .. ":" .. port .. "/ " .. certs .. "ca.pem")
    local text = got:read("*a")
    got:close()
    check(text:find("TLSv1.3", 1, true) and text:find("Hello, world!\n", 1, true), text)
  end
  local refused = start("https_get.lua https://localhost:" .. port .. "/ " .. certs .. "other_ca.pem")
  local text = refused:read("*a")
  refused:close()
  check(text:find("trusted", 1, true) and not text:find("Hello"), text)
  get(port, "this is no TLS\r\n\r\n")
  local s = assert(psocket.connect("127.0.0.1", port, { timeout = 10 })) -- one that stays silent
  local again = start("https_get.lua https://localhost:" .. port .. "/ " .. certs .. "ca.pem")
  text = again:read("*a")
  again:close()
  check(text:find("Hello, world!\n", 1, true), text)
  s:close()
  stop(out, pid)
  local usage = start("https_server.lua")
  check(usage:read("*a"):find("usage"))
  usage:close()
end)

t.test("https_get reads lengths, chunks and what ends with the connection", function()
  local answers = {
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nsec\r\n4;x=y\r\nond\n\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\n\r\nthird",
    "HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nnot all of it",
  }
  local want = { "first", "second\n", "third", "cut short" }
  local l = assert(psocket.listen("127.0.0.1:0"))
  for i, answer in ipairs(answers) do
    local got = start("https_get.lua http://127.0.0.1:" .. select(2, l:getlocal()) .. "/x")
    local s = assert(l:accept { timeout = 10 })
    check(s:read_until("\r\n\r\n"):find("^GET /x HTTP/1.1\r\n"))
    s:send(answer)
    s:close()
    local text = got:read("*a")
    got:close()
    check(text:find(want[i], 1, true), text)
  end
end)

t.test("chat", function()
  local out, pid = start("chat.lua")
  local port = port_of(out)
  local function join(name)
    local s = assert(psocket.connect("127.0.0.1", port, { timeout = 10 }))
    equal(s:read(11), "Your name? ")
    s:send(name .. "\n")
    return s
  end
  local ann = join("ann")
  local bob = join("bob")
  equal(ann:read_until("\n"), "* bob is here\n")
  local cyd = join("cyd")
  equal(ann:read_until("\n"), "* cyd is here\n")
  equal(bob:read_until("\n"), "* cyd is here\n")
  ann:send("hello all\r\n")
  equal(bob:read_until("\n"), "ann: hello all\n")
  equal(cyd:read_until("\n"), "ann: hello all\n")
  for i = 1, 100 do bob:send("line " .. i .. "\n") end
  for i = 1, 100 do
    equal(ann:read_until("\n"), "bob: line " .. i .. "\n")
    equal(cyd:read_until("\n"), "bob: line " .. i .. "\n")
  end
  equal(join("bob"):read_until("\n"), "There is a bob already.\n")
  cyd:close()
  equal(ann:read_until("\n"), "* cyd has left\n")
  stop(out, pid)
end)

t.test("frame_loop ends by itself", function()
  local out = start("frame_loop.lua")
  local text = out:read("*a")
  out:close()
  check(text:find("done: 1048576 bytes", 1, true), text)
end)

t.finish()
