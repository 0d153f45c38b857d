-- Bring the means of stored vectors into the conversation's vector set.
-- KEYS: meta, vectors, set    ARGV: 1 generation  2 epoch  3 revision  4 first document  5.. means
-- Returns how many documents the set speaks for afterwards, or -1 when the conversation or the
-- encoder is another by now. A mean is FP32, "" for a document that says nothing and has none.
local m = redis.call('HMGET', KEYS[1], 'gen', 'epoch', 'encoder', 'in_set')
if m[1] ~= ARGV[1] or m[2] ~= ARGV[2] or m[3] ~= ARGV[3] then return -1 end
local n = tonumber(m[4] or '0')
if n ~= tonumber(ARGV[4]) or n + #ARGV - 4 > redis.call('LLEN', KEYS[2]) then return n end
for i = 5, #ARGV do
  if ARGV[i] ~= '' then redis.call('VADD', KEYS[3], 'FP32', ARGV[i], tostring(n), 'Q8') end
  n = n + 1
end
redis.call('HSET', KEYS[1], 'in_set', n)
local ttl = redis.call('PTTL', KEYS[1])
if ttl > 0 then redis.call('PEXPIRE', KEYS[3], ttl) end
return n
