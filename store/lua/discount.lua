-- ARGV: id of a response that is not stored any more
pcall(remove, ARGV[1])  -- a full server refuses it, and takes the id out when its time has come
