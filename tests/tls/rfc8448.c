/* The traces of RFC 8448 with their keys: a simple handshake (3), a resumed one (4), with a HelloRetryRequest (5), with a
 * client certificate (6), in compatibility mode (7). Clients and servers of ours are made to have said what the trace's said
 * where that depends on another's taste (extensions, signatures); the rest is byte for byte: all that the trace sealed is
 * opened and sealed again, Finished made and verified, the binder, ServerHello. This test alone reaches into the handshake. */
#include <stddef.h>
#include <stdint.h>
static int trace_entropy(void *p, size_t n);
#define PSOCKET_ENTROPY(p, n) trace_entropy(p, n)
#include "tls/wire.h"

typedef struct trace {
    int section;
    const char *client_key, *server_key;
    const char *hello, *retry, *hello_again, *answer;  /* messages */
    const char *server_flight, *client_flight, *ticket; /* records; of section 4 without the early data */
    const char *client_data, *server_data, *client_end, *server_end;
} trace;

/* Section 4 sends early data, which we neither offer nor take: it counts for the transcript only. */
static const trace traces[] = {
    {3,
     /* the client's key */
     "49af42ba7f7994852d713ef2784bcbcaa7911de26adc5642cb634540e7ea5005",
     /* the server's */
     "b1580eeadf6dd589b8ef4f2d5652578cc810e9980191ec8d058308cea216a21e",
     /* ClientHello */
     "010000c00303cb34ecb1e78163ba1c38c6dacb196a6dffa21a8d9912ec18a2ef6283024dece700000613011303130201000091000000"
     "0b0009000006736572766572ff01000100000a00140012001d0017001800190100010101020103010400230000003300260024001d00"
     "2099381de560e4bd43d23d8e435a7dbafeb3c06e51c13cae4d5413691e529aaf2c002b0003020304000d0020001e0403050306030203"
     "08040805080604010501060102010402050206020202002d00020101001c00024001",
     /* HelloRetryRequest */ NULL,
     /* ClientHello again */ NULL,
     /* ServerHello */
     "020000560303a6af06a4121860dc5e6e60249cd34c95930c8ac5cb1434dac155772ed3e2692800130100002e00330024001d0020c982"
     "8876112095fe66762bdbf7c672e156d6cc253b833df1dd69b1b04e751f0f002b00020304",
     /* the server's flight, sealed */
     "17030302a2d1ff334a56f5bff6594a07cc87b580233f500f45e489e7f33af35edf7869fcf40aa40aa2b8ea73f848a7ca07612ef9f945"
     "cb960b4068905123ea78b111b429ba9191cd05d2a389280f526134aadc7fc78c4b729df828b5ecf7b13bd9aefb0e57f271585b8ea9bb"
     "355c7c79020716cfb9b1183ef3ab20e37d57a6b9d7477609aee6e122a4cf51427325250c7d0e509289444c9b3a648f1d71035d2ed65b"
     "0e3cdd0cbae8bf2d0b227812cbb360987255cc744110c453baa4fcd610928d809810e4b7ed1a8fd991f06aa6248204797e36a6a73b70"
     "a2559c09ead686945ba246ab66e5edd8044b4c6de3fcf2a89441ac66272fd8fb330ef8190579b3684596c960bd596eea520a56a8d650"
     "f563aad27409960dca63d3e688611ea5e22f4415cf9538d51a200c27034272968a264ed6540c84838d89f72c24461aad6d26f59ecaba"
     "9acbbb317b66d902f4f292a36ac1b639c637ce343117b659622245317b49eeda0c6258f100d7d961ffb138647e92ea330faeea6dfa31"
     "c7a84dc3bd7e1b7a6c7178af36879018e3f252107f243d243dc7339d5684c8b0378bf30244da8c87c843f5e56eb4c5e8280a2b48052c"
     "f93b16499a66db7cca71e4599426f7d461e66f99882bd89fc50800becca62d6c74116dbd2972fda1fa80f85df881edbe5a37668936b3"
     "35583b599186dc5c6918a396fa48a181d6b6fa4f9d62d513afbb992f2b992f67f8afe67f76913fa388cb5630c8ca01e0c65d11c66a1e"
     "2ac4c85977b7c7a6999bbf10dc35ae69f5515614636c0b9b68c19ed2e31c0b3b66763038ebba42f3b38edc0399f3a9f23faa63978c31"
     "7fc9fa66a73f60f0504de93b5b845e275592c12335ee340bbc4fddd502784016e4b3be7ef04dda49f4b440a30cb5d2af939828fd4ae3"
     "794e44f94df5a631ede42c1719bfdabf0253fe5175be898e750edc53370d2b",
     /* the client's */
     "170303003575ec4dc238cce60b298044a71e219c56cc77b0517fe9b93c7a4bfc44d87f38f80338ac98fc46deb384bd1caeacab6867d7"
     "26c40546",
     /* NewSessionTicket */
     "17030300de3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d41d6af8f6b580dcf3d11d63c758db289a015940252f55"
     "713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d9da773b9ca7f2b9fa1b6c0d4a3d03f75e09c30ba1e62972ac46f75f7b9"
     "81be63439b2999ce13064615139891d5e4c5b406f16e3fc181a77ca475840025db2f0a77f81b5ab05b94c01346755f69232c86519d86"
     "cbeeac87aac347d143f9605d64f650db4d023e70e952ca49fe5137121c74bc2697687e248746d6df353005f3bce18696129c8153556b"
     "3b6c6779b37bf15985684f",
     /* data of the client */
     "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a62"
     "92a2977014bd1e3deae63aeebb21694915e4",
     /* data of the server */
     "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5"
     "f0a21c0047c2abf332540dd032e167c2955d",
     /* the client's close_notify */
     "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3",
     /* the server's */
     "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9"},
    {4,
     /* the client's key */
     "bff91188283846dd6a2134ef7180ca2b0b14fb10dce707b5098c0dddc813b2df",
     /* the server's */
     "de5b4476e7b490b2652d338acbf2948066f255f9440e23b98fc69835298dc107",
     /* ClientHello */
     "010001fc03031bc3ceb6bbe39cff938355b5a50adb6db21b7a6af649d7b4bc419d7876487d95000006130113031302010001cd000000"
     "0b0009000006736572766572ff01000100000a00140012001d00170018001901000101010201030104003300260024001d0020e4ffb6"
     "8ac05f8d96c99da26698346c6be16482badddafe051a66b4f18d668f0b002a0000002b0003020304000d0020001e0403050306030203"
     "08040805080604010501060102010402050206020202002d00020101001c000240010015005700000000000000000000000000000000"
     "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
     "0000000000000000000000000000000000002900dd00b800b22c035d829359ee5ff7af4ec900000000262a6494dc486d2c8a34cb33fa"
     "90bf1b0070ad3c498883c9367c09a2be785abc55cd226097a3a982117283f82a03a143efd3ff5dd36d64e861be7fd61d2827db279cce"
     "145077d454a3664d4e6da4d29ee03725a6a4dafcd0fc67d2aea70529513e3da2677fa5906c5b3f7d8f92f228bda40dda721470f9fbf2"
     "97b5aea617646fac5c03272e970727c621a79141ef5f7de6505e5bfbc388e93343694093934ae4d357fad6aacb0021203add4fb2d8fd"
     "f822a0ca3cf7678ef5e88dae990141c5924d57bb6fa31b9e5f9d",
     /* HelloRetryRequest */ NULL,
     /* ClientHello again */ NULL,
     /* ServerHello */
     "0200005c03033ccfd2dec890222763472ae8136777c9d7358777bb66e91ea5122495f559ea2d00130100003400290002000000330024"
     "001d0020121761ee42c333e1b9e77b60dd57c2053cd94512ab47f115e86eff50942cea31002b00020304",
     /* the server's flight, sealed */
     "1703030061dc48237b4b879f50d0d4d262ea8b4716eb40ddc1eb957e11126e8a7149c2d012d37a7115957e64ce30008b9e0323f2c05a"
     "9c1c77b4f37849a695ab255060a33fee770ca95cb8486bfd0843b87024865ca35cc41c4e515c64dcb1369f98635bc7a5",
     /* the client's */
     "170303003500f8b467d14cf22a4b3f0b6ae0d8e6cc8d08e0db3515ef5c2bdf1922eafbb70009964716d834fb70c3d2a56c5b1f5f6bdb"
     "a6c333cf",
     /* NewSessionTicket */ NULL,
     /* data of the client */
     "1703030043b1cebce242aa201be9ae5e1cb2a9aa4b33d4e866af1edb068919237741aa031d7a74d491c99b9d4e232b74206bc6fbaa04"
     "fe78be44a9b4f54320a17eb76992afac3103",
     /* data of the server */
     "1703030043275e9f20acff57bc000657d3867df039cccf79047884cf75771746f740b5a83f462a0954c3581393a203a25a7dd14141ef"
     "1a37900cdb62ff62dee1ba39ab2590cbf194",
     /* the client's close_notify */
     "17030300130facce3246bdfc6369838d6a82ae6de5d422dc",
     /* the server's */
     "17030300135b18af444e8e1eec7158fb62d8f2577d37ba5d"},
    {5,
     /* the client's key */
     "ab5473467e19346ceb0a0414e41da21d4d2445bc3025afe97c4e8dc8d513da39",
     /* the server's */
     "8c510601f9765bfb8ed693449a48989859b5cfa879cb9f5443c41c5ff10634ed",
     /* ClientHello */
     "010000b00303b0b1c5a5aa37c5919f2ed1d5c6fff7fcb7849716945a2b8cee9258a346677b6f00000613011303130201000081000000"
     "0b0009000006736572766572ff01000100000a00080006001d00170018003300260024001d0020e8e8e3f3b93a25ed97a14a7dcacb8a"
     "272c6288e585c6484d05262fcad062ad1f002b0003020304000d0020001e040305030603020308040805080604010501060102010402"
     "050206020202002d00020101001c00024001",
     /* HelloRetryRequest */
     "020000ac0303cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c001301000084003300020017002c0074"
     "007271dcd04bb88bc3189119398a00000000eefafc76c146b823b096f8aacad365dd0030953f4edf625636e5f21bb2e23fcc654b1b5b"
     "40318d10d137abcbb87574e36e8a1f025f7dfa5d6e50781b5eda4aa15b0c8be778257d16aa3030e9e7841dd9e4c0342267e8ca0caf57"
     "1fb2b7cff0f934b0002b00020304",
     /* ClientHello again */
     "010001fc0303b0b1c5a5aa37c5919f2ed1d5c6fff7fcb7849716945a2b8cee9258a346677b6f000006130113031302010001cd000000"
     "0b0009000006736572766572ff01000100000a00080006001d001700180033004700450017004104a6da7392ec591e17abfd535964b9"
     "9894d13befb221b3def2ebe3830eac8f0151812677c4d6d2237e85cf01d6910cfb83954e76ba7352830534159897e8065780002b0003"
     "020304000d0020001e040305030603020308040805080604010501060102010402050206020202002c0074007271dcd04bb88bc31891"
     "19398a00000000eefafc76c146b823b096f8aacad365dd0030953f4edf625636e5f21bb2e23fcc654b1b5b40318d10d137abcbb87574"
     "e36e8a1f025f7dfa5d6e50781b5eda4aa15b0c8be778257d16aa3030e9e7841dd9e4c0342267e8ca0caf571fb2b7cff0f934b0002d00"
     "020101001c00024001001500af0000000000000000000000000000000000000000000000000000000000000000000000000000000000"
     "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
     "000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
     "0000000000000000000000000000000000000000000000000000",
     /* ServerHello */
     "020000770303bb341d847fd789c47c387172dc0c9bf147fccacb5043d86ca4c598d3ff571b9800130100004f00330045001700410458"
     "3e054b7a66672ae020ad9d2686fcc85b5ad41a134a0f03ee72b893052bd85b4c8de6776f5b04ac07d83540eab3e3d9c547bc6528c431"
     "7d294686093a6cad7d002b00020304",
     /* the server's flight, sealed */
     "170303029699bee20baf5b7fc727bfab6223928a381e6d0cf9c4da653f9d2a7b23f7de11cce842d5cf75631763450ffb8b0cc1d238e6"
     "58af7a12adc86243114ab14a1da2fae42621ce483fb6242eabfaad52566b02b31d2eddedefeb80e66a9900d5f973b40c4fdf74719ecf"
     "1b68d7f9c3b6ceb903ca13dd1bb8f8187ae33417e1d152522c5822a1a03ad52c838c55953d610222874cce8e1790b229a2aa0b53c8d3"
     "77ee720182951dc6181dc5d90bd1f0105ed1e84aa5f75957c6661897079e5ea5007449e3197bdc7c9beeedddeafdd844afa5c315ecfe"
     "65e576afe909812880620ec7048b42d7f5c78d76f299d6d82534bdd8f512febc0ed3814aca470cd8000d3e1cb9962b052fbb950df683"
     "a52c2ba77ed3713b122937a6e5170964e2ab7969dcd980b3db9b458da7603124d6dc005e4d6e04b4d0c4baf3275db827dbba0a6db096"
     "72171fc057b3851d7e026841e2978fbd2346bbefdd0376bb1108fe9acc92189f5650aa5e85d8e8c7b67ac510dba003d3d7e16350bb66"
     "d45013efd44c9b607c0d318c4c7d1a1f5cbc57e20611804e3787d7b4a4b5f08ed8fd70bdaeade02260b12ab842ef690b4a3ee7911e84"
     "1b374ecd5ebbbc2a54d047b600336dd7d0c88b4bc10e58ee6cb656de7247fa20d8e91deb84628608cf80615b62e96c1491c7ac3755eb"
     "6901405d3474fe1ac79d106a0cee56c2577fc88480f96cb6b8c681b7b68b53c146093908f350888175bdfb0b1e31ad61e30ba0adfe6d"
     "223aa03c0783b5001a57587c328a9afcfcfb978d1cd4328f7d9d60530e630befd96c0c816ee20b0100768ae2a6df51fc68f172740a79"
     "af11398ee3be1252491fa9c693479e877f94ab7c5f8cad480203e6ab7b87dd71e8a0729113df17f5eee86ce108d1d72007ec1cd13c85"
     "a6c149621e77b7d78d805a30f0be030c315e54",
     /* the client's */
     "1703030035d74f1923c662fd34137c6f502f3dd2b93d951d1b3bc97e42afe23c31abea92fe91b474999e85e3b791ce252fe8c3e9f939"
     "a4120cb2",
     /* NewSessionTicket */ NULL,
     /* data of the client */ NULL,
     /* data of the server */ NULL,
     /* the client's close_notify */
     "17030300132ea6cdf749196023e2b3a49491695536426047",
     /* the server's */
     "1703030013519fc5075cb0884349759ff9ef6f011bb4c6f2"},
    {6,
     /* the client's key */
     "c040b2bb8f3addd20fd4058c547003a3c6f9c1cd915d5e535c87d8d191aaf071",
     /* the server's */
     "7382a5ad1cdd2056ae18cc708bd007d98130dbe2cd4d9ead9b96952becbb0888",
     /* ClientHello */
     "010000bc03036a472236328b83af40386d3a3e1f1ce624fa4ed89ab865a4ff0f4144ce3ae2330000061301130313020100008d000000"
     "0b0009000006736572766572ff01000100000a00140012001d00170018001901000101010201030104003300260024001d0020089cc2"
     "671f738d9a671e5b2e464981d05b76e361aa22aea91f1d49ca10a7a362002b0003020304000d0020001e040305030603020308040805"
     "080604010501060102010402050206020202002d00020101001c00024001",
     /* HelloRetryRequest */ NULL,
     /* ClientHello again */ NULL,
     /* ServerHello */
     "0200005603033b50fdf1c3d572e40e68953e7fff4e2758459c59afa0582c0ea032874255fe6e00130100002e00330024001d00206c2e"
     "50e865919a6b5a12dfaf918f92b442567b0f89bc54478c6921366658f062002b00020304",
     /* the server's flight, sealed */
     "17030302166d0a7ac079b32a94aa68c4e2893e8bd0d3c185f549c236fbbce3d647f08f3c94a2bf424d8708883605ad8955f97718b021"
     "3dead13dfb23ebb8381da582756612bcb5a5d40847719fbe9f179bfae656f3ecfd59a4c0d35132ce418a7e46f6b6a60622f8a6c06b28"
     "d83360163563be9c37f97eb902326924a72b3ed8c8381277d1581cab9c3715ac2401398467ad7ebfab3d0c3419e750104f7d62c50279"
     "01f2e4cd4ca5b8071eb03d3c732d83215066dfc4d291d4c1ff3b8d7e4298f677d4d51dea1168d8f16cb27ba40266313a1fedf9e23cc7"
     "7f765450f9e96f05d08f3da245b14d4946f07ec81eed6d56f26bd574f0b7f7c7047037c16fce3b23754e662fad73e2b7213f6af29676"
     "9c99a1d38e6232e0ec8dc4f84d6aa6f7de3887be0057862f9018e0ab396705aa4090ab5f2dff6325a557e7320d4effd46bb4f997d163"
     "207cce6665294aa4465541e3fe37ee7350659ea550d6dcb6af3c518852c7a14c3cc15bc32b3273bdf1751da184203135b117d300204f"
     "b12d58ca9ac34b68eca27030832f7a4b46d2a55757f63fe8f6e85ac47469e6198da88a64586bf23c69590de822263be75fd836847240"
     "c48f8c145cd6bd698962e7edc234ebe59231351eef8d7652cf3b08ab3af6e5ec74c58a8da34b39f9b0d6c4279a9a1f82071729e7059d"
     "d7f7b95b9433c4684ce1891a6d33432d52eddb0b8cee9181d403eccc12991f1ad4aa62c36049713a7bb135fdda6661a05a93f8c16f",
     /* the client's */
     "1703030280b46a63934e673841abaf267403bc677f6b6d2a1e2f12bb5f62683bfe36a82673f06d6287ddd609bcf2f5fd3225923d24af"
     "3c76682c180ee571a17ca4bfbe2f510dc9a0e1fca5cff2cee87d11cb531a6ef90bf5309a6b63bbbc0b88ea45103a4304091543859fa1"
     "1ec032ed873444cd5185ead5f6a76420f0f0286acef802c8e4788c23275f1b06da600f4a7decd0bc59d7bef10e649ae32690397fc3d4"
     "ed6f30f801d8cd569b71ad4fa05ea7cf2ac2dfa150d220505d4011b34d09d53853eba61a101e4f8dca47d8171a884b19259a3dd48c5a"
     "c141983edc77814d25e7f66bbbdb9096839266e06561828ecfb27eafd4e9e81a0b96e3bfa42dae5ad80359b9a6661402c3a210417703"
     "0106dbd8f65bb6a0159d512eb13af22a259f313bd58c2e21fe053d57f2a962b0a4ea682c96f70b79b560136192823b27be6a2fb7b1c7"
     "51ccc0e3303615541485b7b307b423332c11efa80b72f9b80a53e53f7bb38a3af4c59f8008bad0544e5614e688ff57bccd6935f81f44"
     "7f420c1c1bf4058818e90bf5dc716ccae42524856df8250bcdbd7af65f82dd53061d024f6d2ff5c11e3792a9a70e0ee2a3c20a1b968a"
     "c391f8f92831135d25242ada2fe241c2653ec996339dfa12dfae7a3373df88b07ca27aef6dc266a25f13f75c76039c1f46fd7a53ae63"
     "99c999f4b2aee18e480d6d12bfae226bbdc92a6ad50b4d3bac7abc3b3651eb5be56f33bf41127b3ca886dc714a50d1490357bd40d9fd"
     "6be42209a4ddb9ebb2987e29f120f05814614d2c79320015b461fe7324447670a1af5f65caed15b474ab7faa495016adf808e53b94ef"
     "54afbb0e0a3a2732ab597f7d5923c77386aa5124731f8cc73e703b341c175a454939a77ab64313c15cf3fe03c4f33842564976",
     /* NewSessionTicket */ NULL,
     /* data of the client */ NULL,
     /* data of the server */ NULL,
     /* the client's close_notify */
     "1703030013e4ad7d44c29245339d355962c779b89ef44c58",
     /* the server's */
     "17030300131decc5d6e64bba8a6f21b4fd077497da2a90cb"},
    {7,
     /* the client's key */
     "dea00b45695dc781f19d34a62c1afd31ab4369af1e855a3bbb258d8442cde6d7",
     /* the server's */
     "017c38a3647921ca2d9ed6bd7ae7132b94211b1331bb208c8ccdd51556409995",
     /* ClientHello */
     "010000dc03034e640a3f2c2738f09c9418bd78edccd7559d0531199276d4d92a0e9ee9d77d0920a80c165581a8e0d06c0018d54d3a06"
     "dd32cfd4051eb026fad3fd0ba99269e6ef00061301130313020100008d0000000b0009000006736572766572ff01000100000a001400"
     "12001d00170018001901000101010201030104003300260024001d00208e7292cf3056dbb0d25fcbe55c107dc9bbf83dd9708f39203b"
     "a341249a7d9b63002b0003020304000d0020001e040305030603020308040805080604010501060102010402050206020202002d0002"
     "0101001c00024001",
     /* HelloRetryRequest */ NULL,
     /* ClientHello again */ NULL,
     /* ServerHello */
     "020000760303e5dd5948c435f7a38f0f0130708dc322d9df09abd4838117c183a7bb6d994f2c20a80c165581a8e0d06c0018d54d3a06"
     "dd32cfd4051eb026fad3fd0ba99269e6ef130100002e00330024001d00203e30f0f4ba551afd62768341175f5265e4daf0c8841617aa"
     "4fafdd2142320c22002b00020304",
     /* the server's flight, sealed */
     "17030302a248de891d9c3624a67a6c6f0601ab7ac20c1f6a9e14d2e6007e999e130367a8af1bcfea9498fbce19df4505eece3a25da52"
     "3cbe55ea1b3bda4e91995e455d500a4faa6227b7111e1c8547e2d7c179db215303d25827f3cd18f48f6491328cf5c0f814d388150bd9"
     "e9264aae491db6995069bea17665d5e0c817284d4ac21880054c3657331e23a9304dc88a15c04ec80bd3852bf7f9d3c6615b15fac83b"
     "bca031c6d2310d9f5d7a4b020a4f7c19062b65c05a1d3264b557ec9d8e0f7cee27e36f793039de8dd96edfca9009e0651034bff31d7f"
     "349eece01d99fcb5fcab840d7707c72299c3b5d04564e880a33c5e846c762e3d922bb55303d1d87cc0f06573f17dcb9b8ffd35bbd883"
     "c1cb3aa24fcc325005f768ce2fb624ca97b6c4d98e17f35bc2c7940a06100c2d448db7180b2d862164435c9c210e9860394e05aab23f"
     "f1b0203f662c588da5bc4411477a30b41136c488a0a63fcab5c15ac613226dae827a1d1fe95ece6b30bcee1560a8d408d264555e760f"
     "9bfc624c2c87fd0456c9bfb41bcd1a7b212786d2b67fd57804facfa1eef7cf2919d8b998c9789f763b4d9caa093a9ded43175d46a76b"
     "4d54f0ce0c5d2259b607e30a9d241263874fa59d6f570dc40d83a2d83bf9e9850d454c57806535a8998ae0357df92f00b9667344c241"
     "14ccc9ef539124b204e7e6e748c30a28a3d1d183997243eaccbbd33b0c1115a0327106a1e6a75271d4983086f632ff0eb8b4c63102cb"
     "cef5bb72dae1279d5de8eb19096d8cdb07fa8ea989788fac23e66e0488c193f3f3fea8c8838896bf3ae4b6848d42ced4bdf41abe6fc3"
     "31b44225e7a1f7d3564147d5458e71aa909cb02be958bbc42e3aa5a27cc6eaf4b6fe51ae4495694d8ab6320aab920183fd5b31a35904"
     "2fbd67391ec5e4d1892a2e5210141a494e9301b24a113c474c7f2a73457847",
     /* the client's */
     "170303003532d030e273773a8696c799981af6ced07f87482e81565e394e87c867f33df3d65b7506f1a626af91d4821d5f7a1f210ef8"
     "dd3c6d16",
     /* NewSessionTicket */ NULL,
     /* data of the client */ NULL,
     /* data of the server */ NULL,
     /* the client's close_notify */
     "17030300130f629155382dba23c4e2c5f7f84e6f2ed3083d",
     /* the server's */
     "1703030013b7257b0fecaf69d4f09e3f891e2a25d1e28845"},
};
static const char psk_of_3[] = "4ecd0eb6ec3b4d87f5d6028f922ca4c5851a277fd41311c9e62d2c9492e1c4f3";
static const char binder_of_4[] = "3add4fb2d8fdf822a0ca3cf7678ef5e88dae990141c5924d57bb6fa31b9e5f9d";
static const char end_of_early_data[] = "05000000";
static const struct { const char *label, *secret; } secrets_of_3[] = {
    {"CLIENT_HANDSHAKE_TRAFFIC_SECRET", "b3eddb126e067f35a780b3abf45e2d8f3b1a950738f52e9600746a0e27a55a21"},
    {"SERVER_HANDSHAKE_TRAFFIC_SECRET", "b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38"},
    {"CLIENT_TRAFFIC_SECRET_0", "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"},
    {"SERVER_TRAFFIC_SECRET_0", "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"},
    {"EXPORTER_SECRET", "fe22f881176eda18eb8f44529e6792c50c9a3f89452f68d8ae311b4309d3cf50"}};

static uint8_t pool[64]; /* what comes in place of the system's random numbers */
static size_t pool_left;

static int trace_entropy(void *p, size_t n)
{
    if (!pool_left) return kit_entropy(p, n);
    if (n > pool_left) return -1;
    memcpy(p, pool + sizeof pool - pool_left, n);
    pool_left -= n;
    return 0;
}

static const trace *t; /* the one at work */
static kit_bytes b;
static uint8_t hello[1024], again[1024], answer[1024], psk[32];
static size_t hello_len, again_len, answer_len;

static size_t bytes(const char *hex, uint8_t *out)
{
    return hex ? kit_unhex(hex, out, 1024) : 0;
}

static void fail(const char *what)
{
    check_fail(__FILE__, __LINE__, "RFC 8448 section %d: %s", t->section, what);
}

/* These must be the bytes of the trace. */
static void same(const void *p, size_t n, const char *hex, const char *what)
{
    static uint8_t want[1024];
    if (n != bytes(hex, want) || memcmp(p, want, n)) fail(what);
}

/* What h has sent must be this record; nothing if there is none. */
static void sent(kit_end *h, const char *hex, const char *what)
{
    kit_take(h, &b);
    same(b.p, b.n, hex, what);
}

static void feed(kit_end *h, const char *hex)
{
    static uint8_t p[1024];
    kit_feed(h, p, bytes(hex, p));
}

static void feed_message(kit_end *h, int type, const uint8_t *p, size_t n)
{
    static kit_bytes r;
    r.n = 0;
    kit_record(&r, type, p, n);
    kit_feed(h, r.p, r.n);
}

/* The public value of a key_share extension. */
static psi_reader share(const uint8_t *m, size_t n)
{
    size_t at = kit_extension(m, n, 51) + 4;
    if (m[0] == 1) at += 2;
    return psi_read_of(m + at + 4, kit_get(m + at + 2, 2));
}

static void start(psi_hs *h)
{
    psi_write_free(&h->transcript.bytes);
    memset(&h->transcript, 0, sizeof h->transcript);
    psi_transcript_add(&h->transcript, hello, hello_len);
}

/* The messages up to the second hello, in the transcript of h. */
static void begin(psi_hs *h)
{
    static uint8_t p[1024];
    size_t n = bytes(t->retry, p);
    start(h);
    psi_transcript_start(&h->transcript, br_sha256_ID);
    if (!n) return;
    psi_transcript_retry(&h->transcript, br_sha256_ID);
    psi_transcript_add(&h->transcript, p, n);
    psi_transcript_add(&h->transcript, again, again_len);
}

/* Opens a flight of the trace with a secret of the key log; its messages are in b. */
static void open_flight(const char *label, const char *hex)
{
    static uint8_t record[1024], plain[1024];
    const kit_secret *s = kit_find_secret(label, hello + 6);
    kit_key key;
    int type = 0;
    ptrdiff_t n;
    REQUIRE(s != NULL);
    kit_key_13(&key, 0x1301, s->secret);
    bytes(hex, record);
    n = kit_open(&key, record, plain, &type);
    b.n = 0;
    if (n < 0 || type != 22) fail(label);
    else kit_put(&b, plain, (size_t)n);
}

/* Seals a message as the peer would and gives it to h. */
static void feed_sealed(kit_end *h, const char *label, const uint8_t *p, size_t n, uint64_t seq)
{
    static kit_bytes r;
    kit_key key;
    kit_key_13(&key, 0x1301, kit_find_secret(label, hello + 6)->secret);
    key.seq = seq;
    r.n = 0;
    kit_seal(&key, &r, 22, p, n, 0);
    kit_feed(h, r.p, r.n);
}

/* Data both ways and the end, which both roles seal and open alike. */
static void talk(kit_end *h, const char *to, const char *from, const char *end_to, const char *end_from)
{
    const void *data;
    uint8_t payload[50];
    size_t i;
    for (i = 0; i < sizeof payload; i++) payload[i] = (uint8_t)i;
    if (to) {
        CHECK_INT(psocket_send(h->s, payload, sizeof payload), sizeof payload);
        CHECK_INT(psocket_flush(h->s), 0);
        sent(h, to, "data sent");
        feed(h, from);
        if (CHECK_INT(psocket_recv(h->s, &data), sizeof payload)) CHECK_MEM(data, payload, sizeof payload);
    }
    CHECK_INT(psocket_shutdown(h->s), 0);
    sent(h, end_to, "close_notify sent");
    feed(h, end_from);
    CHECK_INT(psocket_recv(h->s, &data), PSOCKET_CLOSED);
}

/* A client of ours that is the trace's up to its hello (or hellos). */
static kit_end *client(psocket_tls *tls)
{
    psocket_error e = {0};
    kit_end *c = NULL;
    psi_hs *h;
    if (kit_new(&c, tls, PSOCKET_CLIENT, "server", &e)) return NULL;
    h = psi_sock_hs(c->s);
    if (t->section == 4) {
        if (!h->session) fail("the ticket was not kept");
        else CHECK_MEM(h->session->secret, psk, 32);
    }
    memcpy(h->randoms, hello + 6, 32);
    h->id_len = hello[38];
    memcpy(h->id, hello + 39, h->id_len);
    h->offered = 0xFFFFFFFFu;
    h->ccs_sent = t->section != 7;
    begin(h);
    if (t->retry) {
        uint8_t p[1024];
        size_t n = bytes(t->retry, p);
        start(h);
        feed_message(c, 22, p, n);
        CHECK_INT(h->k->kex.group->number, 23);
        h->offered = 0xFFFFFFFFu;
        begin(h);
    }
    bytes(t->client_key, h->k->kex.scalar);
    kit_take(c, &b);
    feed_message(c, 22, answer, answer_len);
    return c;
}

/* The server's flight comes to a client of ours; what it cannot take (certificates with short keys, the answer to early
   data) has come already. */
static void client_flight(kit_end *c)
{
    psi_hs *h = psi_sock_hs(c->s);
    size_t at = 0, len;
    int k;
    open_flight("SERVER_HANDSHAKE_TRAFFIC_SECRET", t->server_flight);
    if (t->section == 6) { /* all of it is fine */
        feed(c, t->server_flight);
        if (CHECK_INT(c->status, PSOCKET_WANT_DECISION)) CHECK_INT(psocket_decide(c->s, 0), 0);
        c->status = PSOCKET_WANT_READ;
        kit_turn(c);
        return;
    }
    for (k = 0; (len = kit_message(&b, k, &at)) != 0; k++) {
        const uint8_t *m = b.p + at;
        if (m[0] == 11 || m[0] == 15 || (m[0] == 8 && t->section == 4)) {
            psi_transcript_add(&h->transcript, m, len);
            h->proved = 1;
            while (h->next->message != PSI_MSG_FINISHED) h->next++;
        } else {
            feed_sealed(c, "SERVER_HANDSHAKE_TRAFFIC_SECRET", m, len, t->section != 4 && m[0] == 20);
        }
    }
}

static void as_client(psocket_tls *tls)
{
    static uint8_t p[1024];
    kit_end *c = client(tls);
    psocket_error e = {0};
    size_t i;
    REQUIRE(c != NULL);
    CHECK_INT(kit_status(c, &e), PSOCKET_WANT_READ);
    if (t->section == 7) feed(c, "140303000101");
    client_flight(c);
    if (kit_status(c, &e)) fail(e.text[0] ? e.text : "not done");
    kit_take(c, &b);
    if (t->section == 7) {
        same(b.p, b.n < 6 ? b.n : 6, "140303000101", "ChangeCipherSpec of the client");
        same(b.p + 6, b.n - 6, t->client_flight, "the client's Finished");
    } else if (t->section != 4 && t->section != 6) { /* they send end_of_early_data; a certificate */
        same(b.p, b.n, t->client_flight, "the client's Finished");
    }
    for (i = 0; t->section == 3 && i < 5; i++) {
        const kit_secret *s = kit_find_secret(secrets_of_3[i].label, hello + 6);
        REQUIRE(s != NULL);
        same(s->secret, s->len, secrets_of_3[i].secret, secrets_of_3[i].label);
    }
    if (t->ticket) {
        psi_session facts;
        psi_tlsinfo *info;
        const void *data;
        psi_secret ready;
        psi_keys_ready(&ready, br_sha256_ID, psi_sock_rec(c->s)->seed, 32);
        psi_keys_expand(&ready, "resumption", psi_read_of("\0\0", 2), psk, 32);
        same(psk, 32, psk_of_3, "the PSK");
        psi_tlsinfo_read(psi_sock_info(c->s), &facts);
        facts.flags |= PSI_SESSION_PEER; /* or the ticket is not worth keeping */
        facts.not_after = kit_time + 1000;
        info = psi_tlsinfo_new(&facts);
        REQUIRE(info != NULL);
        psi_free(psi_sock_info(c->s));
        psi_sock_rec(c->s)->info = c->s->of.tls->info = info;
        kit_feed(c, p, bytes(t->ticket, p));
        CHECK_INT(psocket_recv(c->s, &data), PSOCKET_WANT_READ);
    }
    talk(c, t->client_data, t->server_data, t->client_end, t->server_end);
    kit_free(c);
}

/* A server of ours gets the trace's hello. With the trace's random numbers it answers as the trace's does, if not for the
   cookie or the order of extensions of two of them; then it is made to have the trace's state. */
static kit_end *server(psocket_tls *tls)
{
    static uint8_t p[1024];
    psocket_error e = {0};
    kit_end *s = NULL;
    psi_hs *h;
    if (kit_new(&s, tls, PSOCKET_SERVER, NULL, &e)) return NULL;
    h = psi_sock_hs(s->s);
    if (!t->retry) {
        memcpy(pool, answer + 6, 32);
        bytes(t->server_key, pool + 32);
        pool_left = 64;
    }
    feed_message(s, 22, hello, hello_len);
    CHECK_INT(pool_left, 0);
    if (t->retry) feed_message(s, 22, again, again_len);
    if (kit_status(s, &e) != PSOCKET_WANT_READ) fail(e.text);
    kit_take(s, &b);
    if (t->section != 4 && t->section != 5) {
        p[0] = 22, p[1] = p[2] = 3, p[3] = 0, p[4] = (uint8_t)answer_len;
        memcpy(p + 5, answer, answer_len);
        memcpy(p + 5 + answer_len, "\x14\3\3\0\1\1", 6);
        CHECK(b.n > 11 + answer_len && !memcmp(b.p, p, 11 + answer_len));
    }
    begin(h);
    psi_transcript_add(&h->transcript, answer, answer_len);
    bytes(t->server_key, h->k->kex.scalar);
    CHECK(!psi_hs_exchange(h, share(t->retry ? again : hello, t->retry ? again_len : hello_len)));
    if (t->section == 4) {
        h->resumed = 1;
        h->session = (psi_session *)psi_alloc(sizeof *h->session);
        if (!h->session) abort();
        memset(h->session, 0, sizeof *h->session);
        h->session->size = sizeof *h->session;
        memcpy(h->session->secret, psk, 32);
    }
    h->rec->skip = 0;
    CHECK(!psi_hs13_keys(h));
    return s;
}

/* The flights of both, at the server. */
static void server_flights(kit_end *s)
{
    static uint8_t p[1024];
    psi_hs *h = psi_sock_hs(s->s);
    size_t at = 0, len, n;
    int k;
    open_flight("SERVER_HANDSHAKE_TRAFFIC_SECRET", t->server_flight);
    psi_write(&h->flight, b.p, (uint32_t)b.n);
    psi_hs_flush(h);
    same(h->out.p, h->out.n, t->server_flight, "the server's flight");
    psi_hs_sent(h, h->out.n);
    for (k = 0; (len = kit_message(&b, k, &at)) != 0; k++) {
        if (b.p[at] == 20) {
            n = psi_hs_finished(h, 1, p);
            CHECK(n == len - 4 && !memcmp(p, b.p + at + 4, n));
        }
        psi_transcript_add(&h->transcript, b.p + at, len);
    }
    psi_hs13_application(h);
    CHECK(!psi_hs_new_out(h));
    if (t->ticket) h->rec->out.seq = 1; /* the trace's ticket takes a record; ours has none */
    while (h->next->message != PSI_MSG_FINISHED) h->next++;
    n = bytes(t->section == 4 ? end_of_early_data : "", p);
    psi_transcript_add(&h->transcript, p, n);
    if (t->section != 6) {
        if (t->section == 7) feed(s, "140303000101");
        feed(s, t->client_flight);
        return;
    }
    open_flight("CLIENT_HANDSHAKE_TRAFFIC_SECRET", t->client_flight);
    for (k = 0; (len = kit_message(&b, k, &at)) != 0; k++) {
        if (b.p[at] != 20) psi_transcript_add(&h->transcript, b.p + at, len);
        else feed_sealed(s, "CLIENT_HANDSHAKE_TRAFFIC_SECRET", b.p + at, len, 0);
    }
}

static void as_server(psocket_tls *tls)
{
    psocket_error e = {0};
    kit_end *s = server(tls);
    REQUIRE(s != NULL);
    server_flights(s);
    if (kit_status(s, &e)) fail(e.text[0] ? e.text : "not done");
    kit_take(s, &b);
    talk(s, t->server_data, t->client_data, t->server_end, t->client_end);
    kit_free(s);
}

/* The binder of section 4 over its hello without the binders. */
static void check_binder(void)
{
    uint8_t digest[32], binder[32];
    psi_keys_digest(br_sha256_ID, psi_read_of(hello, hello_len - 35), psi_none, digest);
    psi_keys_binder(br_sha256_ID, psk, digest, binder);
    same(binder, 32, binder_of_4, "the binder");
    CHECK_MEM(hello + hello_len - 32, binder, 32);
}

TEST(every_trace)
{
    kit_settings s;
    psocket_tls *of_client[2], *of_server[2];
    size_t i;
    kit_version = 0x0304;
    kit_time = 1500000000; /* 2017: section 6's certificate is valid */
    memset(&s, 0, sizeof s);
    for (i = 0; i < 2; i++) {
        kit_ca(&s, "ca.pem");
        s.opt.suites = "TLS_AES_128_GCM_SHA256";
        s.opt.clock = kit_clock;
        s.opt.decide = i != 0;
        of_client[i] = kit_make(&s);
        kit_done(&s);
        kit_identity(&s, "ec");
        s.opt.suites = "TLS_AES_128_GCM_SHA256";
        s.opt.groups = i ? "secp256r1" : "x25519:secp256r1";
        s.opt.tickets = -1;
        s.opt.clock = kit_clock;
        of_server[i] = kit_make(&s);
        kit_done(&s);
    }
    REQUIRE(of_client[0] && of_client[1] && of_server[0] && of_server[1]);
    for (i = 0; i < sizeof traces / sizeof traces[0]; i++) {
        t = &traces[i];
        hello_len = bytes(t->hello, hello);
        again_len = bytes(t->hello_again, again);
        answer_len = bytes(t->answer, answer);
        as_client(of_client[t->section == 6]);
        as_server(of_server[t->retry != NULL]);
        if (t->section == 4) check_binder();
    }
    for (i = 0; i < 2; i++) {
        psocket_tls_free(of_client[i]);
        psocket_tls_free(of_server[i]);
    }
}
