-- https_get.lua URL [CA.pem]: fetches a page over HTTPS (or HTTP) and writes its body to standard output.
--
--     lua https_get.lua https://example.org/
--     lua https_get.lua https://localhost:8443/ ca.pem      -- trust the certificates in ca.pem, and only those

package.path = (arg[0]:match("^(.*/)") or "./") .. "?.lua;" .. package.path -- http.lua lies beside this file
local http = require "http"

local function fail(message)
  io.stderr:write("https_get: ", message, "\n")
  os.exit(1)
end

if not arg[1] then fail "usage: https_get.lua URL [CA.pem]" end
local answer, message = http.request {
  url = arg[1],
  tls = { ca_file = arg[2], alpn = { "http/1.1" } },
  sink = function(data) io.write(data) end, -- piece by piece: the page may be larger than memory
}
if not answer then fail(message) end
if answer.tls then io.stderr:write(answer.tls.version, " ", answer.tls.suite, "\n") end
if answer.status ~= 200 then fail("the server answered " .. answer.status .. " " .. answer.reason) end
